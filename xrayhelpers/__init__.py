"""Helpers of the chest X-ray lessons: what the lessons share, and little else.

Import what a lesson uses by name, for example ``from xrayhelpers.data import open_data``. Importing the
package alone is quick and quiet: no TensorFlow, no seeds, no settings changed, nothing printed.
"""

__version__ = "0.1.0"
