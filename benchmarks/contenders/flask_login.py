"""Flask-Login, used as its documentation says: the id in Flask's signed session, the user loaded at each request."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.contenders.base import EMAIL, Contender, Pair, Place
from benchmarks.contenders.flask_bare import bare


@asynccontextmanager
async def open_pair(place: Place) -> AsyncIterator[Pair]:
    """Open a pair with users in SQLite. Each request closes its database session, as Flask apps do."""
    from flask import Flask
    from flask_login import LoginManager, UserMixin, current_user, login_required, login_user
    from sqlalchemy import create_engine, select
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker

    from benchmarks.contenders.statements import noting

    class Base(DeclarativeBase): ...

    class User(UserMixin, Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str] = mapped_column(unique=True)
        password_hash: Mapped[str]

    engine = create_engine(f"sqlite:///{place.directory / 'app.sqlite3'}")
    noted = noting(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA journal_mode=WAL")
    Base.metadata.create_all(engine)
    with Session(engine) as session, session.begin():
        session.add(User(email=EMAIL, password_hash="not looked at here"))
    database = scoped_session(sessionmaker(engine))

    app = Flask(__name__)
    app.secret_key = "a secret of this contender"
    manager = LoginManager(app)

    @manager.user_loader
    def load_user(user_id: str) -> User | None:
        return database.get(User, int(user_id))

    @app.teardown_appcontext
    def close(error: BaseException | None) -> None:
        del error
        database.remove()

    @app.get("/me")
    @login_required
    def me() -> str:
        email: str = current_user.email
        return email

    @app.post("/login")
    def login() -> str:
        login_user(database.execute(select(User).where(User.email == EMAIL)).scalar_one())
        return ""

    try:
        yield Pair(app, bare(), noting=noted)
    finally:
        engine.dispose()


CONTENDERS = (
    Contender(
        "flask-login",
        "Flask-Login",
        "wsgi",
        open_pair,
        "the user's id in Flask's signed cookie; the user from the app's SQLite, by SQLAlchemy",
        "signature, age; a copied cookie stays good after a sign-out",
        ("flask", "flask_login"),
    ),
)
