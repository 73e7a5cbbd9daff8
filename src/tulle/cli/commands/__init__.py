"""The commands of ``tulle``, one module each; every module has one ``command``."""
