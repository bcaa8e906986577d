import asyncio
import re
import time
from uuid import UUID

import pytest
from prefect import flow, tags, task
from prefect.client.orchestration import PrefectClient, SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterId, ArtifactFilterKey
from prefect.client.schemas.objects import Artifact, FlowRun

from n1n_prefect import (
    acreate_contact_sheet_artifact,
    artifacts,
    create_contact_sheet_artifact,
)
from n1n_prefect.errors import InvalidRequestError, RefusedError
from n1n_prefect.images import UploadedImage
from tests.staged_images import PICTURE, good, object_of, refused, staged

pytestmark = pytest.mark.usefixtures("own_storage")


class TestKey:
    @pytest.mark.parametrize(
        ("key", "better"),
        [
            ("Week 46", "week-46"),
            ("contact_sheet", "contact-sheet"),
            ("", "n1n-contact-sheet"),
            ("ключ", "n1n-contact-sheet"),
            ("a\n", "a"),
            ("a/b", "a-b"),
        ],
    )
    def test_a_bad_key_is_refused_with_a_better_one(self, key, better):
        with pytest.raises(InvalidRequestError, match=re.escape(f"use {better!r}")):
            create_contact_sheet_artifact([good()], key)

    async def test_also_in_async_code(self):
        with pytest.raises(InvalidRequestError, match="lower-case"):
            await acreate_contact_sheet_artifact([], "A")


class TestOutsideOfARun:
    def test_says_what_to_do(self):
        with pytest.raises(InvalidRequestError, match="Call it in a @flow"):
            create_contact_sheet_artifact([good()])

    async def test_also_in_async_code(self):
        with pytest.raises(InvalidRequestError, match="outside of any"):
            await acreate_contact_sheet_artifact([good()])


def stored(artifact_id: UUID) -> Artifact:
    with get_client(sync_client=True) as client:
        (artifact,) = client.read_artifacts(artifact_filter=ArtifactFilter(id=ArtifactFilterId(any_=[artifact_id])))
    return artifact


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestArtifact:
    def test_in_a_flow(self):
        @flow
        def sync_flow() -> UUID:
            return create_contact_sheet_artifact([good()], title="Mine", description="d", show_prompts=False)

        artifact = stored(sync_flow())
        assert (artifact.key, artifact.type, artifact.description) == ("n1n-contact-sheet", "markdown", "d")
        assert artifact.data.startswith("## Mine\n\n**1 image**")
        assert PICTURE.search(artifact.data)
        assert "red mug" not in artifact.data
        assert artifact.flow_run_id

    async def test_in_an_async_flow(self):
        @flow
        async def async_flow() -> UUID:
            return await acreate_contact_sheet_artifact([good()], "a-sheet")

        artifact = stored(await async_flow())
        assert artifact.key == "a-sheet"
        assert PICTURE.search(artifact.data)

    async def test_the_sync_name_in_an_async_flow_gives_no_coroutine(self):
        @flow
        async def mixed_flow() -> UUID:
            return create_contact_sheet_artifact([refused()], "mixed-sheet")

        assert stored(await mixed_flow()).key == "mixed-sheet"

    def test_in_a_task_it_belongs_to_the_task_run(self):
        @task
        def report() -> UUID:
            return create_contact_sheet_artifact([refused()], "task-sheet")

        @flow
        def flow_with_report() -> UUID:
            return report()

        assert stored(flow_with_report()).task_run_id


def run_of(artifact_id: UUID) -> FlowRun:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(stored(artifact_id).flow_run_id)


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestMarksOfTheRun:
    """Which models a run asked and what it cost, where runs are listed and found."""

    OUTCOMES = staticmethod(
        lambda: [
            good("a", staged(estimated_cost_usd=0.039)),
            good("b", staged(model="gemini-3-pro-image", estimated_cost_usd=0.134), possible_duplicates=1),
            good("c", staged(reused=True)),
            refused(model="gemini-2.5-flash-image"),
        ]
    )
    LABELS = {  # noqa: RUF012
        "n1n.model": "gemini-2.5-flash-image, gemini-3-pro-image",
        "n1n.images": 4,
        "n1n.failed": 1,
        "n1n.reused": 1,
        "n1n.estimated_cost_usd": 0.173,
        "n1n.unpriced": 0,
        "n1n.charged_without_image": 1,
        "n1n.possible_duplicates": 1,
    }

    def test_of_a_flow(self):
        @flow
        def draw() -> UUID:
            create_contact_sheet_artifact([good("z", staged(model="another"))], "marked")
            return create_contact_sheet_artifact(self.OUTCOMES(), "marked")

        with tags("mine"):
            run = run_of(draw())
        assert {name: value for name, value in run.labels.items() if name.startswith("n1n.")} == self.LABELS
        assert sorted(run.tags) == ["mine", "model:another", "model:gemini-2.5-flash-image", "model:gemini-3-pro-image"]

    async def test_of_an_asynchronous_flow(self):
        @flow
        async def draw() -> UUID:
            return await acreate_contact_sheet_artifact(self.OUTCOMES(), "a-marked")

        run = run_of(await draw())
        assert self.LABELS.items() <= run.labels.items()
        assert sorted(run.tags) == ["model:gemini-2.5-flash-image", "model:gemini-3-pro-image"]

    def test_only_some_of_many_models(self):
        @flow
        def draw() -> UUID:
            outcomes = [good(str(n), staged(model=f"model-{n}\n{'x' * 200}")) for n in range(30)]
            return create_contact_sheet_artifact(outcomes, "many-marked")

        run = run_of(draw())
        assert len(run.tags) == 5
        assert max(map(len, run.tags)) <= len("model:") + 80

    def test_a_server_that_refuses_does_no_harm(self, monkeypatch):
        label = SyncPrefectClient.update_flow_run_labels

        def refuse(client: SyncPrefectClient, run_id: UUID, labels: dict[str, object]) -> None:
            if "n1n.model" in labels:
                raise RuntimeError("no labels here")
            label(client, run_id, labels)  # of Prefect's own, where an SDK of OpenTelemetry is configured

        monkeypatch.setattr(SyncPrefectClient, "update_flow_run_labels", refuse)

        @flow
        def draw() -> UUID:
            return create_contact_sheet_artifact([good()], "unmarked")

        assert run_of(draw()).tags == []


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
class TestLongRuns:
    """What is under way is shown as it comes, in one artifact that changes."""

    @pytest.fixture(autouse=True)
    def often(self, monkeypatch):
        monkeypatch.setattr(artifacts, "_REFRESH_SECONDS", 0.2)

    @staticmethod
    def sheet(key, says=""):
        """The sheet of that key, once it says so: whether others have ended by its first look is not certain."""
        with get_client(sync_client=True) as client:
            for _ in range(600):
                found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
                if found and says in f"{found[0].description} {found[0].data}":
                    return found[0]
                time.sleep(0.05)
        pytest.fail(f"no sheet said {says!r} within 30 s")

    def test_of_futures(self):
        seen = []

        @task
        def draw(number: int) -> UploadedImage:
            if number:
                seen.append(self.sheet("live-sheet", "1 pending, 1 uploaded"))
            return object_of(staged(), key=f"{number}.png")

        @flow
        def draw_two() -> UUID:
            return create_contact_sheet_artifact(draw.map([0, 1]), "live-sheet")

        last = stored(draw_two())
        assert seen[0].id == last.id
        assert "**2 images**: 1 pending, 1 uploaded." in seen[0].data
        assert "Under way." in seen[0].data
        assert "**2 images**: 2 uploaded." in last.data
        progress = self.sheet("live-sheet-progress")
        assert (progress.type, float(progress.data)) == ("progress", 100.0)
        assert progress.description == "2 of 2 images have ended."
        assert progress.flow_run_id == last.flow_run_id

    def test_progress_on_the_way(self):
        seen = []

        @task
        def draw(number: int) -> UploadedImage:
            if number:
                seen.append(self.sheet("half-sheet-progress", "1 of 2 images"))
            return object_of(staged(), key=f"{number}.png")

        @flow
        def draw_two() -> UUID:
            return create_contact_sheet_artifact(draw.map([0, 1]), "half-sheet")

        draw_two()
        assert float(seen[0].data) == 50.0

    async def test_of_coroutines_and_tasks(self):
        seen = []

        @task
        async def draw(number: int) -> UploadedImage:
            if number == 2:
                raise RefusedError("Not that.")
            if number:
                seen.append(await asyncio.to_thread(self.sheet, "async-live-sheet", "1 pending"))
            return object_of(staged(), key=f"{number}.png")

        @flow
        async def draw_three() -> UUID:
            refused = asyncio.ensure_future(draw(2))
            made = await acreate_contact_sheet_artifact([draw(0), draw(1), refused], "async-live-sheet")
            with pytest.raises(RefusedError):
                await refused
            return made

        last = stored(await draw_three())
        assert seen[0].id == last.id
        assert float(self.sheet("async-live-sheet-progress").data) == 100.0
        assert "1 pending" in seen[0].data
        assert "**3 images**: 2 uploaded, 1 refused." in last.data


@pytest.mark.prefect
@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("kind", ["sync", "async"])
class TestServerThatFails:
    """A sheet on the way is for who watches; the images of the run go on without it."""

    @pytest.fixture(autouse=True)
    def often(self, monkeypatch):
        monkeypatch.setattr(artifacts, "_REFRESH_SECONDS", 0.05)

    @pytest.fixture
    def refuse(self, monkeypatch):
        """Refuses artifacts that are sent while something is true of them; the times that was met."""
        met = []

        def refuse(when):
            for client in (SyncPrefectClient, PrefectClient):
                for name in ("create_artifact", "update_artifact"):
                    monkeypatch.setattr(client, name, refusing(getattr(client, name), when, met))
            return met

        return refuse

    @staticmethod
    async def drawn(kind, key, met):
        """The sheet of a run with an image that ends when the server has refused twice."""

        @task
        def draw(number: int) -> UploadedImage:
            for _ in range(600):
                if len(met) > 1:
                    return object_of(staged(), key=f"{number}.png")
                time.sleep(0.05)
            pytest.fail("nothing was refused within 30 s")

        @flow
        def sync_flow() -> UUID:
            return create_contact_sheet_artifact(draw.map([0, 1]), key)

        @flow
        async def async_flow() -> UUID:
            return await acreate_contact_sheet_artifact(draw.map([0, 1]), key)

        return await (async_flow() if kind == "async" else asyncio.to_thread(sync_flow))

    async def test_on_the_way_does_no_harm(self, refuse, kind):
        met = refuse(lambda artifact, met: len(met) < 2)
        last = await asyncio.to_thread(stored, await self.drawn(kind, f"{kind}-unharmed", met))
        assert "**2 images**: 2 uploaded." in last.data

    async def test_with_progress_does_no_harm(self, refuse, kind):
        met = refuse(lambda artifact, _: "images have ended" in artifact.description)
        last = await asyncio.to_thread(stored, await self.drawn(kind, f"{kind}-without-progress", met))
        assert "**2 images**: 2 uploaded." in last.data

    async def test_with_the_last_sheet_is_said(self, refuse, kind):
        met = refuse(lambda artifact, _: "images have ended" not in artifact.description)
        with pytest.raises(RuntimeError, match="no artifact here"):
            await self.drawn(kind, f"{kind}-no-sheet", met)


def refusing(whole, when, met):
    def refused(client, *given, **named):
        artifact = given[-1] if given else [*named.values()][-1]
        if not when(artifact, met):
            return whole(client, *given, **named)
        met.append(artifact)
        raise RuntimeError("no artifact here")

    return refused
