"""Restart inside other libraries, and `rs.load`. Other libraries are imported when they are needed only."""
