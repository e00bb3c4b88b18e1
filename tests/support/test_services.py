"""What the fixtures promise."""

from __future__ import annotations

import psycopg2
import pytest
from services.postgres import Cluster, execute


def test_a_database_belongs_to_a_role_that_needs_its_password(postgres: Cluster) -> None:
    login = postgres.database()
    assert execute(login, "SELECT current_user, current_database()") == [(login.user, login.name)]
    with pytest.raises(psycopg2.OperationalError):
        execute(login._replace(password="another"), "SELECT 1")
