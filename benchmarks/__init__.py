"""What is fast, and by how much: `python -m benchmarks`, see README.md here. Not part of the installed package."""
