//! Where the admin key is, and where it never is.
