"""The work on chunks: Ray Data's pool of actors, what each does, and marks of what it began."""
