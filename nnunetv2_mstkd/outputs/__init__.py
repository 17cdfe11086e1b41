"""What a study needs beside segmentations: statistics, masks, previews, a page, a text about the methods."""
