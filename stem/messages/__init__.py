"""What travels: pure data with strict decoding. No I/O; the only place that imports msgpack."""
