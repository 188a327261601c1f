"""How OpenAIEmbeddingModel asks: what decides its vectors, its connections, requests and answers."""
