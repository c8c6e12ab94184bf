"""What all methods with an order do on differential equations, measured."""
