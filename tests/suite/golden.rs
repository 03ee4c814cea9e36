//! Golden files of every stored kind, written by earlier versions.
