"""What is measured beside the table: products, residual histories, growth with n and p."""
