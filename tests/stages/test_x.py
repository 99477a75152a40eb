import pytest
@pytest.mark.ray
def test_x(chain):
    import json
    for n in ("chunks","embeddings","index","ranked","scored"):
        m=json.load(open(getattr(chain,n)+"/manifest.json"))
        print(n,m["rows"],m["metrics"],m["cost"])
    print(m)
