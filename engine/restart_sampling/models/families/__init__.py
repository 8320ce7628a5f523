"""The families of networks that model files hold, one file each; family.py finds the records in `FAMILIES` of each."""
