import redis


class TestRedisServer:
    def test_it_is_a_real_one_that_runs_scripts_and_keeps_nothing(self, redis_server):
        with redis.Redis.from_url(redis_server) as client:
            assert client.eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, "test:counter", 5) == 5
            assert (client.config_get("save")["save"], client.config_get("appendonly")["appendonly"]) == ("", "no")
