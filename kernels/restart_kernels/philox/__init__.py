"""Counter-based noise, scheme philox-v1: the words, and the normals made from them."""
