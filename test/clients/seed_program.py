# The program of Rattail's guide, word for word: it stores a widget with one component
# and finds it again.

from rattail.db import Session
from poser.db import model

# open database session
s = Session()

# add a widget with one component
widget = model.Widget()
widget.description = "First Widget Ever!"
widget.components.append(model.Component(item_code="42", description="Basic Component"))
s.add(widget)

# commit the database transaction, so widget is now truly persisted
s.commit()

# just for kicks, make sure we only have one widget and component
assert s.query(model.Widget).count() == 1
assert s.query(model.Component).count() == 1

# done with the database
s.close()
