"""The sample: a firm that rents out equipment. Start reading at README.md beside this file, and then at `app.py`."""
