"""Tulle, a service mesh for plain processes, virtual machines and Kubernetes."""

__version__ = "0.1.0"
