"""Pages in a browser beside the API: the chat page."""
