"""All resources at one revision: the store that keeps them and the Mesh that relates them."""
