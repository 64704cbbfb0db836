"""What runs a network: one interface, several engines. `load_engine` in `pick.py` chooses."""
