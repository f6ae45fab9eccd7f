# Alembic's environment for the migrations of own_tables_alembic.py.  That program sets
# the attributes of the configuration.

from alembic import context

from alembic_filter import include_object_for

attributes = context.config.attributes
options = {"include_schemas": attributes.get("include_schemas", False)}


def keep_the_proposal(migration_context, revision, directives):
    """Autogenerate's proposal goes to the program, and no file is written."""
    attributes["proposal"] = directives[0].upgrade_ops
    directives[:] = []


with attributes["engine"].connect() as connection:
    if attributes.get("filtered"):
        options["include_object"] = include_object_for(connection)
    context.configure(connection=connection, compare_type=True,
                      target_metadata=attributes["metadata"],
                      process_revision_directives=keep_the_proposal, **options)
    with context.begin_transaction():
        context.run_migrations()
