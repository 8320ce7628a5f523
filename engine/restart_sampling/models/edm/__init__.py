"""The U-Nets of EDM."""
