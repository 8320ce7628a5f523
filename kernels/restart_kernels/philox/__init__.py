"""Counter-based noise, scheme philox-v1: the words of Philox, and the normals made from them."""
