"""Other compressors beside ours: each turns a file of contexts and questions into a file of texts that ``lloco eval --texts`` reads."""
