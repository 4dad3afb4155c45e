"""What an operator asks for, one flow a file. No types are defined here: Prefect loads these files under other names."""
