//! Layer bytes.
