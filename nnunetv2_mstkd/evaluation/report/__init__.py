"""The report of a comparison: one list of tables, as text and as one HTML file that needs no network."""
