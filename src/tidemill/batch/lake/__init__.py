"""Tables and trees of files: Delta, Iceberg, and directories whose files are rows."""
