"""Hostile input at every door: only named errors come out, in bounded time and memory."""
