"""One data set a file, each ending in its `Dataset`: nothing else in the tree has to know it. They build on the parts
beside this folder, and import no model."""
