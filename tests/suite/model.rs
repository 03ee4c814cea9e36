//! Random operations against a map, every get compared byte for byte.
