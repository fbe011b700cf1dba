"""fastText's language model: the reader of its file and the model itself, without its C++ library."""
