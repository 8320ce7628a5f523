"""The networks of diffusers pipelines, one family in a file; network.py finds what each calls `NETWORK`."""
