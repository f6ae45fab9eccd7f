# Stand-in for rattail.db: a Session on the database that libpq's environment
# variables name.

import sqlalchemy as sa
from sqlalchemy import orm

engine = sa.create_engine("postgresql+psycopg2://")
Session = orm.sessionmaker(bind=engine)
