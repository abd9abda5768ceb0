"""Devices behind ssh: measuring heads there, and putting bundles there."""
