"""What can be trained: one package a recipe, a specification without torch beside a training function with it."""
