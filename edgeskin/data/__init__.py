"""Paired lesions: loaders, roles, frames, phantoms."""
