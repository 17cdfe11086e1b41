"""Networks: torch in, torch out."""
