//! A flipped or missing byte in each kind of file is seen; deleting the index changes nothing.
