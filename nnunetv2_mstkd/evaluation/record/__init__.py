"""One evaluation's folder."""
