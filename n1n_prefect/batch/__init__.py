"""Ten thousand images in one go: a manifest of prompts in, images in S3 and a table of what happened out."""
