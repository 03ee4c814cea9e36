//! Crash images through the disk seam: cut after every write, fsync and rename of put, gc and the rest.
