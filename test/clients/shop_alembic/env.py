# Alembic's environment for the migrations of own_tables_alembic.py, which sets the
# attributes of the configuration.

from alembic import context

from alembic_filter import include_object_for

attributes = context.config.attributes


def keep_the_proposal(migration_context, revision, directives):
    """Autogenerate's proposal goes to the program, and no file is written."""
    attributes["proposal"] = directives[0].upgrade_ops.as_diffs()
    directives[:] = []


with attributes["engine"].connect() as connection:
    context.configure(connection=connection, include_schemas=True,
                      include_object=include_object_for(connection),
                      target_metadata=attributes.get("metadata"),
                      process_revision_directives=keep_the_proposal)
    with context.begin_transaction():
        context.run_migrations()
