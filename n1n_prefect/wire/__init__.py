"""One pure module for each wire format: request to bytes, and reply to a value or the right error."""
