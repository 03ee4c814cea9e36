//! Truncated and lying containers go in and come out bit-exact; sources that change and stores that are wrong are clear errors.
