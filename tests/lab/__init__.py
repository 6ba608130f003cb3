"""A small real shop of async services with switches for faults, and the recorder of the demo data."""
