"""Darknet's files: `.cfg` texts as networks, `.weights` files in and out."""
