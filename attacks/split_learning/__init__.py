"""Split learning as a protocol of messages, and the attacks of a server on its clients."""
