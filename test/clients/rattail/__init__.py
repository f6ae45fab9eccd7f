# Stand-in for Rattail, of which the seed's program needs only rattail.db.
