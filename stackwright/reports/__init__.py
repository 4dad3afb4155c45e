"""HTML and Markdown made from typed results."""
