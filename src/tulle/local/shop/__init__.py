"""The sample shop of `tulle demo`: plain programs that know nothing of a mesh.

web → catalog (v1, v2), cart → redis (TCP), payments (gRPC), recommendations → catalog
"""
