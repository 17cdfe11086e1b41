"""RA-HVED: heteromodal variational encoder-decoder with attention to the region of interest."""
